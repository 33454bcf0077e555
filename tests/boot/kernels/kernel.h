/* What bootloader 0.9 passes in RDI with the feature map_physical_memory (docs/boot.md), and ports. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

struct region {
    u64 start, end;
    u32 type, pad;
};

struct boot_info {
    struct region map[64];
    u64 regions;
    u64 physical_memory_offset;
    u64 tls_start, tls_file_size, tls_mem_size;
};

static inline void out8(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline void print(const char *text)
{
    while (*text)
        out8(0x3f8, *text++);
}

static inline void print_number(u64 value, u64 base)
{
    char digits[24];
    int at = sizeof digits;

    digits[--at] = 0;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    print(digits + at);
}

static inline void __attribute__((noreturn)) leave(u32 code)
{
    out32(0xf4, code);
    for (;;)
        __asm__ volatile("hlt");
}
