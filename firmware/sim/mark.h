/* Marks for the counting plugin: from a marked place on, executed instructions belong to the region `number`.
 *
 * A mark is a label, noted in a section that is not loaded: it adds no instruction and uses no register. All that it
 * changes is what the compiler would have merged or duplicated across it. The assembler macro keeps it to one line,
 * because gcc estimates the length of inline assembly by counting lines. */
#ifndef BNNCC_MARK_H
#define BNNCC_MARK_H

__asm__(
    ".macro bnncc_mark number\n"
    "9901:\n"
    ".pushsection .bnncc.marks, \"\", %progbits\n"
    ".word 9901b, \\number\n"
    ".popsection\n"
    ".endm\n");

#define BNNCC_MARK(number) __asm__ volatile("bnncc_mark %c0" ::"i"(number))

/* The region in which nothing is counted; entering it ends a run. bnncc/sim/count.py knows it too. */
#define BNNCC_MARK_IDLE 0xFFFFFFFF

#endif
