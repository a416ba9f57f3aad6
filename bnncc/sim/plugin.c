/* QEMU plugin that counts, exactly, how often the program goes from each block to each other, region by region and run
 * by run. A block is a straight piece of code: a translation block of QEMU, cut at marks. From the counts of such
 * edges follow the instructions executed, and whether the branch at a block's end was taken.
 *
 * Regions: some addresses are marked with a number; executing one makes it the current region. In region IDLE nothing
 * is counted, and entering it ends a run. A (block, region) pair is a node; edges run between nodes.
 *
 *   qemu-system-arm ... -plugin plugin.so,marks=FILE,nodes=FILE,edges=FILE
 *
 *   marks  read: lines "ADDRESS NUMBER", hexadecimal
 *   nodes  written: lines "REGION ADDRESS CODE" in the order of their ids 0, 1, ...; hexadecimal, CODE as in memory
 *   edges  written: struct record, one for each edge that was executed in a run; a run's first edge comes from an idle
 *          node and its last one goes to one
 *
 * Distributions carry no qemu-plugin.h, so the entry points used are declared here. PLUGIN_API is 1 for QEMU up to 8 or
 * 3 from 9.1 on; of what is used here they differ in qemu_plugin_insn_data. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
#if PLUGIN_API >= 3
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#else
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#endif
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
enum { QEMU_PLUGIN_CB_NO_REGS = 0 };

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;

#define IDLE UINT32_MAX /* BNNCC_MARK_IDLE of mark.h */

struct mark {
    uint32_t address, region;
};

struct block {
    const struct mark *mark; /* at its first instruction, or NULL */
    struct node *nodes;      /* the regions it was executed in */
    uint32_t address;
    size_t length;
    uint8_t *code;
};

struct node {
    const struct block *block;
    uint32_t region, id;
    struct edge *edges;     /* to its successors, the last one used first */
    struct node *sibling;   /* of the same block, in another region */
    struct node *created;   /* the one created after this */
};

struct edge {
    const struct node *from, *to;
    uint64_t count;            /* in this run */
    struct edge *sibling;      /* from the same node */
    struct edge *next_counted; /* the list of edges with a count above 0 */
};

struct record {
    uint32_t run, from, to;
    uint64_t count;
} __attribute__((packed));

static struct mark *marks;
static size_t mark_count;
static uint32_t region = IDLE, run, node_count;
static struct node *previous;    /* executed last; NULL while idle */
static struct block *idle_block; /* executed last while idle */
static struct node *first_node, **last_node = &first_node;
static struct edge *counted;
static const char *nodes_name;
static FILE *edges_file;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        fail("bnncc plugin");
    return memory;
}

static struct node *node_of(struct block *block, uint32_t in_region)
{
    for (struct node *node = block->nodes; node != NULL; node = node->sibling)
        if (node->region == in_region)
            return node;
    struct node *node = allocate(sizeof *node);
    *node = (struct node){.block = block, .region = in_region, .id = node_count++, .sibling = block->nodes};
    block->nodes = node;
    *last_node = node;
    last_node = &node->created;
    return node;
}

static struct edge *edge_between(struct node *from, const struct node *to)
{
    struct edge **link = &from->edges;
    while (*link != NULL && (*link)->to != to)
        link = &(*link)->sibling;
    struct edge *edge = *link;
    if (edge == NULL) {
        edge = allocate(sizeof *edge);
        edge->from = from;
        edge->to = to;
    } else {
        *link = edge->sibling;
    }
    edge->sibling = from->edges;
    from->edges = edge;
    return edge;
}

static void end_run(void)
{
    for (struct edge *edge = counted; edge != NULL; edge = edge->next_counted) {
        const struct record record = {run, edge->from->id, edge->to->id, edge->count};
        if (fwrite(&record, sizeof record, 1, edges_file) != 1)
            fail("bnncc plugin: edges");
        edge->count = 0;
    }
    counted = NULL;
    run++;
}

static void count_edge(struct node *from, const struct node *to)
{
    struct edge *edge = edge_between(from, to);
    if (edge->count++ == 0) {
        edge->next_counted = counted;
        counted = edge;
    }
}

static void on_block(unsigned cpu, void *data)
{
    (void)cpu;
    struct block *block = data;
    if (block->mark != NULL)
        region = block->mark->region;
    if (region != IDLE) {
        struct node *node = node_of(block, region);
        count_edge(previous != NULL ? previous : node_of(idle_block, IDLE), node);
        previous = node;
        return;
    }
    if (previous != NULL) {
        count_edge(previous, node_of(block, IDLE));
        end_run();
        previous = NULL;
    }
    idle_block = block;
}

static const struct mark *mark_at(uint32_t address)
{
    for (size_t i = 0; i < mark_count; i++)
        if (marks[i].address == address)
            return &marks[i];
    return NULL;
}

/* Copies the instruction's code and returns its size, 2 or 4 (Armv7-M ARM, A5.1). QEMU's size is not it: at a page's end
 * QEMU reads the next halfword too, to see whether it can go on, and takes both for one instruction. */
static size_t read_code(const struct qemu_plugin_insn *insn, uint8_t code[4])
{
    const size_t available = qemu_plugin_insn_size(insn);
#if PLUGIN_API >= 3
    qemu_plugin_insn_data(insn, code, available < 4 ? available : 4);
#else
    memcpy(code, qemu_plugin_insn_data(insn), available < 4 ? available : 4);
#endif
    return code[1] >> 3 >= 0x1D ? 4 : 2;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *block = NULL;
    const size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint32_t address = (uint32_t)qemu_plugin_insn_vaddr(insn);
        uint8_t code[4];
        const size_t size = read_code(insn, code);
        const struct mark *mark = mark_at(address);
        if (block == NULL || mark != NULL) {
            block = allocate(sizeof *block);
            block->mark = mark;
            block->address = address;
            block->code = allocate(4 * (count - i));
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
        }
        memcpy(block->code + block->length, code, size);
        block->length += size;
    }
}

static void at_exit(plugin_id id, void *data)
{
    (void)id;
    (void)data;
    FILE *file = fopen(nodes_name, "w");
    if (file == NULL)
        fail(nodes_name);
    for (const struct node *node = first_node; node != NULL; node = node->created) {
        fprintf(file, "%" PRIx32 " %" PRIx32 " ", node->region, node->block->address);
        for (size_t i = 0; i < node->block->length; i++)
            fprintf(file, "%02x", node->block->code[i]);
        fputc('\n', file);
    }
    if (fclose(file) != 0 || fclose(edges_file) != 0)
        fail("bnncc plugin: writing");
}

static void read_marks(const char *name)
{
    FILE *file = fopen(name, "r");
    if (file == NULL)
        fail(name);
    struct mark mark;
    while (fscanf(file, "%" SCNx32 " %" SCNx32, &mark.address, &mark.region) == 2) {
        marks = realloc(marks, (mark_count + 1) * sizeof *marks);
        if (marks == NULL)
            fail("bnncc plugin");
        marks[mark_count++] = mark;
    }
    fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "marks=", 6) == 0)
            read_marks(argv[i] + 6);
        else if (strncmp(argv[i], "nodes=", 6) == 0)
            nodes_name = strdup(argv[i] + 6);
        else if (strncmp(argv[i], "edges=", 6) == 0)
            edges_file = fopen(argv[i] + 6, "wb");
    }
    if (mark_count == 0 || nodes_name == NULL || edges_file == NULL) {
        fputs("bnncc plugin: needs marks=FILE,nodes=FILE,edges=FILE\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
