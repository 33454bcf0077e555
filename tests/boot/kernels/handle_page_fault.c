/* Handles a page fault with an IDT of its own and the bootloader's GDT, and goes on behind it. */
#include "kernel.h"

struct frame {
    u64 rip, cs, rflags, rsp, ss;
};

struct __attribute__((packed)) gate {
    u16 low, selector;
    u8 ist, type;
    u16 middle;
    u32 high, reserved;
};

static struct gate idt[32];

extern const u8 faulting[], behind[];

static void __attribute__((interrupt)) page_fault(struct frame *frame, u64 error_code)
{
    u64 cr2;

    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    print("page fault at 0x");
    print_number(cr2, 16);
    print(", error code ");
    print_number(error_code, 10);
    print(frame->rip == (u64)faulting ? ", where expected\n" : ", elsewhere\n");
    frame->rip = (u64)behind;
}

void _start(struct boot_info *info)
{
    u64 handler = (u64)page_fault;
    struct __attribute__((packed)) {
        u16 limit;
        u64 base;
    } idtr = {sizeof idt - 1, (u64)idt};

    (void)info;
    idt[14] = (struct gate){handler, 8, 0, 0x8e, handler >> 16, handler >> 32, 0};
    __asm__ volatile("lidt %0" : : "m"(idtr));
    __asm__ volatile(".global faulting, behind\n"
                     "mov $0xdeadbeef000, %%rax\n"
                     "faulting: movb $1, (%%rax)\n"
                     "behind:"
                     : : : "rax", "memory");
    print("going on\n");
    leave(0x10);
}
