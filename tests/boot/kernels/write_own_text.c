/* Writes to its own code, which no segment allows. */
#include "kernel.h"

void _start(struct boot_info *info)
{
    (void)info;
    print("about to write\n");
    *(volatile u8 *)(u64)&_start = 0x90;
    print("not reached\n");
    leave(0x10);
}
