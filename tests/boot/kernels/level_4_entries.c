/* The lecture's loop over the level 4 table, which it reaches through the physical memory map. */
#include "kernel.h"

void _start(struct boot_info *info)
{
    u64 cr3;

    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    u64 *table = (u64 *)(info->physical_memory_offset + (cr3 & 0x000ffffffffff000));
    for (u64 i = 0; i < 512; i++) {
        if (!table[i])
            continue;
        print("L4 Entry ");
        print_number(i, 10);
        print(": 0x");
        print_number(table[i], 16);
        print("\n");
    }
    print("FIN\n");
    leave(0x10);
}
