/* Runs into the guard page below its stack. */
#include "kernel.h"

static u64 __attribute__((noinline)) deeper(volatile u64 *level)
{
    volatile u64 here[64];

    here[0] = *level + 1;
    return deeper(here) + here[0];
}

void _start(struct boot_info *info)
{
    volatile u64 level = info->regions;

    leave(deeper(&level));
}
