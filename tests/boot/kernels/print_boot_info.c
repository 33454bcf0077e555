/* The lecture's first kernel: println!("{:?}", boot_info), in C; and a word on the text screen,
 * through the physical memory map. Uses .rodata, .data and .bss, so that all of them must be there.
 */
#include "kernel.h"

static const char *const types[] = {
    "Usable", "InUse",  "Reserved",    "AcpiReclaimable", "AcpiNvs",   "BadMemory", "Kernel",
    "KernelStack", "PageTable", "Bootloader", "FrameZero", "Empty", "BootInfo", "Package",
};

static volatile u64 counted = 40;
static volatile u64 zeros[1000];

void _start(struct boot_info *info)
{
    volatile u16 *screen = (volatile u16 *)(info->physical_memory_offset + 0xb8000);
    const char *text = "Hello World!";

    print("BootInfo { memory_map: [");
    for (u64 i = 0; i < info->regions; i++) {
        struct region *region = &info->map[i];
        if (i)
            print(", ");
        print("MemoryRegion { range: FrameRange(0x");
        print_number(region->start * 4096, 16);
        print("..0x");
        print_number(region->end * 4096, 16);
        print("), region_type: ");
        print(types[region->type]);
        print(" }");
    }
    print("], physical_memory_offset: ");
    print_number(info->physical_memory_offset, 10);
    print(", tls_template: TlsTemplate { start_addr: ");
    print_number(info->tls_start, 10);
    print(", file_size: ");
    print_number(info->tls_file_size, 10);
    print(", mem_size: ");
    print_number(info->tls_mem_size, 10);
    print(" }, _non_exhaustive: 0 }\n");

    while (*text)
        *screen++ = 0x0f00 | (u8)*text++;
    for (u64 i = 0; i < 1000; i++)
        counted += ++zeros[i];
    leave(counted == 1040 ? 0x10 : 0x11);
}
