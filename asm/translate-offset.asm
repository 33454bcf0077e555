; translate-offset: virtual to physical through the full physical map, huge pages and all
;
; All of physical memory is mapped at an offset, as the bootloader's map_physical_memory feature
; does: the table in frame f appears at offset + f. The walk goes down from CR3, and an entry at
; level 3 or 2 with bit 7 (HUGE_PAGE) set ends it early: the rest of the address is then the offset
; in a page of 1 GiB or 2 MiB. It is what OffsetPageTable::translate_addr of the x86_64 crate does.
;
; In:  RDI = array of virtual addresses, RSI = array for the results, RDX = how many (not 0),
;      RCX = the physical map's offset. Four levels.
; Out: each result is a physical address, or all ones where nothing is mapped (or the address is
;      not canonical). Not changed: RCX.
;
; It proves that the four addresses of the lecture translate, the last one too, which
; translate-4k-only cannot do: the physical map's own offset, mapped by a 2 MiB page, is physical 0.
; The low memory that holds the tables is not identity mapped here: a walk that forgot the offset
; would fault.
;
; [machine]
; ram = "16M"
; identity = "0"
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },            # the stack
;     { va = 0x0b8000, pa = 0x0b8000, size = "4K" },            # the VGA text buffer
;     { va = 0x100000, pa = 0x100000, size = "8K" },            # this code and its data
;     { va = 0x201000, pa = 0x400000, size = "4K", flags = "" },
;     { va = 0x10000201000, pa = 0x27d000, size = "8K", flags = "WX" },
;     { va = 0xffff800000000000, pa = 0x300000, size = "4K" },    # the kernel's half
;     { va = 0x18000000000, pa = 0, size = "16M", page = "2M" },
;     { va = 0x10040000000, pa = 0x40000000, size = "1G", page = "1G" },
; ]
;
; [in]
; rdi = "addresses"
; rsi = "results"
; rdx = 10
; rcx = 0x18000000000
;
; [out.memory]
; 0x101000 = 0xb8000
; 0x101008 = 0x400008
; 0x101010 = 0x27da10
; 0x101018 = 0x0              # a huge page, and address 0
; 0x101020 = 0x612345
; 0x101028 = 0x7fffffff       # in a 1 GiB page
; 0x101030 = -1               # not mapped
; 0x101038 = -1               # not canonical
; 0x101040 = 0x300456         # bits 63:47 are ones
; 0x101048 = -1               # not canonical, though 47:0 are those of a page

    mov r8, 0x000ffffffffff000      // an entry's bits 51:12
    mov rbx, cr3
    and rbx, r8
    add rbx, rcx                    // the level 4 table, as it appears in the map

next:
    mov r9, [rdi]
    mov rax, r9
    shl rax, 16
    sar rax, 16
    cmp rax, r9
    jne unmapped

    shr rax, 36                     // index * 8
    and eax, 0xff8
    mov rax, [rbx + rax]
    test al, 1
    jz unmapped

    and rax, r8
    add rax, rcx
    mov r10, r9
    shr r10, 27
    and r10d, 0xff8
    mov rax, [rax + r10]
    mov r10d, eax
    and r10d, 0x81                  // HUGE_PAGE | PRESENT
    cmp r10d, 1
    jne no_level_2

    and rax, r8
    add rax, rcx
    mov r10, r9
    shr r10, 18
    and r10d, 0xff8
    mov rax, [rax + r10]
    mov r10d, eax
    and r10d, 0x81
    cmp r10d, 1
    jne no_level_1

    and rax, r8
    add rax, rcx
    mov r10, r9
    shr r10, 9
    and r10d, 0xff8
    mov rax, [rax + r10]
    test al, 1
    jz unmapped
    and rax, r8
    and r9d, 0xfff
    or rax, r9
store:
    mov [rsi], rax
    add rdi, 8
    add rsi, 8
    dec rdx
    jnz next
    hlt

no_level_2:
    mov r10, 0x3fffffff
    jmp huge
no_level_1:
    mov r10, 0x1fffff
huge:                               // R10 = the page's size - 1: bits 12 and up may be flags here
    test al, 1
    jz unmapped
    and rax, r8
    or rax, r10
    xor rax, r10
    and r9, r10
    or rax, r9
    jmp store

unmapped:
    mov rax, -1
    jmp store

addresses:
    .quad 0xb8000, 0x201008, 0x10000201a10, 0x18000000000
    .quad 0x18000612345, 0x1007fffffff, 0x5555_0000_0000, 0x0000_8000_0000_0000
    .quad 0xffff_8000_0000_0456, 0x0001_0000_000b_8000
.org 0x101000
results:
    .fill 10, 8, 0x55
