/* QEMU plugin that counts, exactly, how often the program goes from each block to each other, region by region and run
 * by run. A block is a straight piece of code: a translation block of QEMU, cut where a mark or the function stands.
 * From the counts of such edges follow the instructions executed, and whether the branch at a block's end was taken.
 *
 * What is counted:
 *   marks=FILE        some addresses are marked with a number; executing one makes it the current region. In region IDLE
 *                     nothing is counted, and entering it ends a run. FILE holds lines "ADDRESS NUMBER", hexadecimal
 *   function=ADDRESS  everything from a call of the function there to its return, in region 0 and in one run
 *   neither           everything, in region 0 and in one run
 *
 * A node is a block, a region, and for each of the block's instructions which memory it accessed: none (a conditional
 * load that was skipped), flash, or another. Edges run between nodes.
 *
 *   nodes=FILE          written: lines "REGION ADDRESS ACCESSES CODE" in the order of their ids 0, 1, ...; hexadecimal,
 *                       CODE as in memory; in ACCESSES bit 2i says that instruction i accessed flash, bit 2i + 1
 *                       that it accessed other memory
 *   edges=FILE          written: struct record, one for each edge that was executed in a run; a run's first edge comes
 *                       from an idle node and its last one goes to one, unless the program ends before
 *
 * The options for flash, and for the time spent waiting for it, are those of flash.h.
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

#include "flash.h"

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, uint32_t, uint64_t, void *),
                                             int, int, void *);
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
enum { QEMU_PLUGIN_CB_NO_REGS = 0, QEMU_PLUGIN_MEM_RW = 3 };

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;

#define IDLE UINT32_MAX /* BNNCC_MARK_IDLE of mark.h */
#define MOST 32         /* instructions of a block: two bits of `accesses` each */
enum { FLASH = 1, OTHER = 2 };

struct mark {
    uint32_t address, region;
};

struct block {
    const struct mark *mark; /* at its first instruction, or NULL */
    struct node *nodes;      /* the regions it was executed in */
    uint32_t address, end;
    uint8_t code[4 * MOST];
    bool calls; /* its last instruction is bl or blx */
};

struct node {
    const struct block *block;
    uint32_t region, id;
    uint64_t accesses;
    struct edge *edges;   /* to its successors, the last one used first */
    struct node *sibling; /* of the same block */
    struct node *created; /* the one created after this */
};

struct edge {
    const struct node *from, *to;
    uint64_t count, waited;    /* in this run */
    struct edge *sibling;      /* from the same node */
    struct edge *next_counted; /* the list of edges with a count above 0 */
};

struct record {
    uint32_t run, from, to;
    uint64_t count, waited;
} __attribute__((packed));

static struct mark *marks;
static size_t mark_count;
static bool follows_function;
static uint32_t function;
static uint32_t region = IDLE, run, node_count;

static struct block outside, *current = &outside; /* executed last; `outside` before all */
static uint32_t current_region = IDLE;
static uint64_t accesses;                   /* of the current block, so far; `waited` too */
static struct node *previous;               /* executed before it; NULL while idle */
static struct block *idle_block = &outside; /* executed last while idle */
static uint64_t idle_accesses;
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

static struct node *node_of(struct block *block, uint32_t in_region, uint64_t with_accesses)
{
    for (struct node *node = block->nodes; node != NULL; node = node->sibling)
        if (node->region == in_region && node->accesses == with_accesses)
            return node;
    struct node *node = allocate(sizeof *node);
    *node = (struct node){.block = block,
                          .region = in_region,
                          .id = node_count++,
                          .accesses = with_accesses,
                          .sibling = block->nodes};
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
        const struct record record = {run, edge->from->id, edge->to->id, edge->count, edge->waited};
        if (fwrite(&record, sizeof record, 1, edges_file) != 1)
            fail("bnncc plugin: edges");
        edge->count = edge->waited = 0;
    }
    counted = NULL;
    run++;
}

static void count_edge(struct node *from, const struct node *to)
{
    struct edge *edge = edge_between(from, to);
    edge->waited += waited;
    if (edge->count++ == 0) {
        edge->next_counted = counted;
        counted = edge;
    }
}

/* The current block has come to its end: only now its accesses are known. */
static void end_block(void)
{
    if (current_region != IDLE) {
        struct node *node = node_of(current, current_region, accesses);
        count_edge(previous != NULL ? previous : node_of(idle_block, IDLE, idle_accesses), node);
        previous = node;
        return;
    }
    idle_block = current;
    idle_accesses = accesses;
    if (previous != NULL) {
        count_edge(previous, node_of(current, IDLE, accesses));
        previous = NULL;
        if (!follows_function)
            end_run();
    }
}

/* Notes the return addresses of the calls under way, and with them where the function begins and ends. */
static void follow_calls(const struct block *block)
{
    static uint32_t *returns, depth, room, function_depth;
    if (depth > 0 && returns[depth - 1] == block->address) {
        depth--;
    } else if (current->calls && block->address != current->end) {
        if (depth == room) {
            room = 2 * room + 16;
            returns = realloc(returns, room * sizeof *returns);
            if (returns == NULL)
                fail("bnncc plugin");
        }
        returns[depth++] = current->end;
    }
    if (region == IDLE && block->address == function) {
        region = 0;
        function_depth = depth;
    } else if (depth < function_depth) {
        region = IDLE;
    }
}

static void on_block(unsigned cpu, void *executed)
{
    (void)cpu;
    struct block *block = executed;
    end_block();
    if (block->mark != NULL)
        region = block->mark->region;
    if (follows_function)
        follow_calls(block);
    current = block;
    current_region = region;
    accesses = waited = 0;
}

static void on_instruction(unsigned cpu, void *address)
{
    (void)cpu;
    fetch((uint32_t)(uintptr_t)address);
    now++;
}

static void on_second_half(unsigned cpu, void *address)
{
    (void)cpu;
    fetch((uint32_t)(uintptr_t)address);
}

static void on_access(unsigned cpu, uint32_t info, uint64_t address, void *shift)
{
    (void)cpu;
    (void)info;
    accesses |= (uint64_t)(in_flash((uint32_t)address) ? FLASH : OTHER) << (uintptr_t)shift;
    access_memory((uint32_t)address);
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

/* bl <label>, or blx <register> (Armv7-M ARM, A7.7.18 and A7.7.19) */
static bool is_call(const uint8_t code[4], size_t size)
{
    const unsigned first = code[0] | (unsigned)code[1] << 8, second = code[2] | (unsigned)code[3] << 8;
    return size == 4 ? (first & 0xF800) == 0xF000 && (second & 0xD000) == 0xD000 : (first & 0xFF87) == 0x4780;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *block = NULL;
    uintptr_t index = 0; /* of the instruction in its block */
    const size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; i++, index++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint32_t address = (uint32_t)qemu_plugin_insn_vaddr(insn);
        uint8_t code[4] = {0};
        const size_t size = read_code(insn, code);
        const struct mark *mark = mark_at(address);
        if (block == NULL || mark != NULL || index == MOST || (follows_function && address == function)) {
            block = allocate(sizeof *block);
            block->mark = mark;
            block->address = block->end = address;
            index = 0;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
        }
        if (wait_states != 0) {
            void *first = (void *)(uintptr_t)address, *second = (void *)(uintptr_t)(address + 2);
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_instruction, QEMU_PLUGIN_CB_NO_REGS, first);
            if (size == 4)
                qemu_plugin_register_vcpu_insn_exec_cb(insn, on_second_half, QEMU_PLUGIN_CB_NO_REGS, second);
        }
        memcpy(block->code + (block->end - block->address), code, size);
        block->end += (uint32_t)size;
        block->calls = is_call(code, size);
        qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW,
                                         (void *)(2 * index));
    }
}

static void at_exit(plugin_id id, void *unused)
{
    (void)id;
    (void)unused;
    end_block();
    if (counted != NULL)
        end_run();
    FILE *file = fopen(nodes_name, "w");
    if (file == NULL)
        fail(nodes_name);
    for (const struct node *node = first_node; node != NULL; node = node->created) {
        fprintf(file, "%" PRIx32 " %" PRIx32 " %" PRIx64 " ", node->region, node->block->address, node->accesses);
        for (size_t i = 0; i < node->block->end - node->block->address; i++)
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
    bool marked = false;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "marks=", 6) == 0) {
            read_marks(argv[i] + 6);
            marked = true;
        } else if (sscanf(argv[i], "function=%" SCNx32, &function) == 1) {
            follows_function = true;
        } else if (strncmp(argv[i], "nodes=", 6) == 0) {
            nodes_name = strdup(argv[i] + 6);
        } else if (strncmp(argv[i], "edges=", 6) == 0) {
            edges_file = fopen(argv[i] + 6, "wb");
        } else if (!flash_option(argv[i])) {
            fprintf(stderr, "bnncc plugin: unknown option %s\n", argv[i]);
            return -1;
        }
    }
    if (nodes_name == NULL || edges_file == NULL || !flash_begin()) {
        fputs("bnncc plugin: needs nodes=FILE,edges=FILE, and line=BYTES with wait=N\n", stderr);
        return -1;
    }
    if (!marked && !follows_function)
        region = 0;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
