; translate-4k-only: the lecture's first translate_addr, and the address that it cannot translate
;
; The lecture's function goes down the four tables through the full physical map, and takes the
; frame of each entry with the crate's `frame()`, which is an error for an entry that is not
; present and for one with HUGE_PAGE set: `Err(_) => return None`. This is that function line by
; line, so bit 7 of a level 1 entry, which is PAT and no page size, stops it too.
;
; In:  RDI = array of virtual addresses (canonical), RSI = array for the results, RDX = how many
;      (not 0), RCX = the physical map's offset. Four levels.
; Out: each result is a physical address, or all ones for None.
;
; It proves that the lecture's identity-mapped VGA page, a code page and a stack page translate,
; and that the fourth address does not: the physical map's own offset is mapped, to physical 0, but
; by a 2 MiB page. The CPU has no such trouble: RAX is read there, at last, and is what the
; identity-mapped page 0 holds.
;
; [machine]
; ram = "16M"
; identity = "4K"                                               # page 0
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },            # the stack
;     { va = 0x0b8000, pa = 0x0b8000, size = "4K" },            # the VGA text buffer
;     { va = 0x100000, pa = 0x100000, size = "8K" },            # this code and its data
;     { va = 0x201000, pa = 0x400000, size = "4K", flags = "" },
;     { va = 0x10000201000, pa = 0x27d000, size = "8K", flags = "WX" },
;     { va = 0x18000000000, pa = 0, size = "16M", page = "2M" },
; ]
;
; [in]
; rdi = "addresses"
; rsi = "results"
; rdx = 5
; rcx = 0x18000000000
; r15 = 0x1122334455667788
;
; [out]
; rax = 0x1122334455667788
;
; [out.memory]
; 0x101000 = 0xb8000
; 0x101008 = 0x400008
; 0x101010 = 0x27da10
; 0x101018 = -1               # None: a huge page
; 0x101020 = -1               # None: nothing there

    mov rbp, rcx
    mov r8, 0x000ffffffffff000      // an entry's bits 51:12
next:
    mov r9, [rdi]
    mov rax, cr3                    // frame = Cr3::read().start_address()
    and rax, r8
    mov ecx, 39                     // for index in p4_index, p3_index, p2_index, p1_index
descend:
    mov r10, r9
    shr r10, cl
    and r10d, 511
    add rax, rbp                    // offset + frame.start_address()
    mov rax, [rax + r10 * 8]        // (*ptr)[index]
    mov r10d, eax
    and r10d, 0x81                  // HUGE_PAGE | PRESENT
    cmp r10d, 1
    jne none                        // Err(FrameNotPresent), Err(HugeFrame)
    and rax, r8
    sub ecx, 9
    cmp ecx, 3
    jne descend
    and r9d, 0xfff
    add rax, r9                     // frame.start_address() + addr.page_offset()
store:
    mov [rsi], rax
    add rdi, 8
    add rsi, 8
    dec rdx
    jnz next

    xor edi, edi
    mov [rdi], r15                  // physical 0, through the identity mapping
    mov rax, [rbp]                  // and through the physical map
    hlt
none:
    mov rax, -1
    jmp store

addresses:
    .quad 0xb8000, 0x201008, 0x10000201a10, 0x18000000000, 0x5555_0000_0000
.org 0x101000
results:
    .fill 5, 8, 0x55
