; tlb-fills: how often the CPU walks the tables for one buffer in 4 KiB and in 2 MiB pages
;
; 2 MiB of memory are mapped twice, by 512 pages of 4 KiB and by one of 2 MiB, and read through each
; mapping, one word in every 4 KiB. Three things are counted.
;
; Entries touched: the leaf entries that have their A (accessed) bit set afterwards, having begun
; with it clear. A completed access sets A in every entry that it uses (rule A), so this is
; architecture: 512 and 1.
;
; TLB fills: before each read the kernel clears A in the leaf entry, by a plain write, which
; invalidates nothing; if A is set after the read, the CPU went to the tables, and if it is not, the
; TLB had the translation. For 4 KiB pages every read must fill. For the 2 MiB page one fill can be
; enough, as in a CPU whose TLB has entries of 2 MiB; the rule BIG permits to cache it in smaller
; parts as well, and this engine does: Unicorn 2.1.4 fills once for every 4 KiB, whatever the page.
; (Its own UC_HOOK_TLB_FILL cannot count them: it is not called while the guest's tables are used.)
;
; Fills of the last 16 reads, made once more after an `invlpg` of the very last page: in 4 KiB pages
; one, if the TLB has room for 16 pages. In the 2 MiB page one or all: `invlpg` invalidates all of a
; bigger page, and this engine fills again for each 4 KiB.
;
; What a bigger page saves in any case is a level: 4 entries are read for a fill, or 3.
;
; In:  RDI = the buffer in 4 KiB pages, RSI = in a 2 MiB page; RDX = where the level 1 table of the
;      first appears, RCX = where the level 2 entry of the second does. R8 = how many words are
;      read, 4 KiB apart (16 to 512).
; Out: entries touched: RAX in 4 KiB pages, RBX in the 2 MiB page (R9 = how many were set before:
;      0, or the count is wrong). TLB fills: R10 and R11, and of the last 16 reads made once more:
;      R12 and R13.
;
; [machine]
; ram = "16M"
; identity = "1280K"
; map = [
;     { va = 0x400000, pa = 0x200000, size = "2M" },
;     { va = 0x600000, pa = 0x200000, size = "2M", page = "2M" },
; ]
;
; [in]
; rdi = 0x400000
; rsi = 0x600000
; rdx = 0x5000                # the level 1 table of 4 to 6 MiB
; rcx = 0x3018                # the level 2 entry of 6 to 8 MiB
; r8 = 512
;
; [out]
; rax = 512                   # architecture
; rbx = 1                     # architecture
; r9 = 0
; r10 = 512                   # a CPU that prefetches translations may show fewer
; r11 = 512                   # this engine; 1 to 512 are permitted
; r12 = 1                     # this engine
; r13 = 16                    # this engine; 1 to 16 are permitted

.include "include/flags.inc"

    mov rbp, rdx                        // the entry that maps the word read next,
    mov r14d, 8                         // and how far it is to the one for the word after it
    call fills
    mov r10, r15
    call fills_again
    mov r12, r15

    xchg rdi, rsi
    mov rbp, rcx
    xor r14d, r14d
    call fills
    mov r11, r15
    call fills_again
    mov r13, r15
    xchg rdi, rsi

    xor r9d, r9d
    mov rbp, rdx
    mov r14d, 8
    call touched
    mov rbx, r15
    mov rdi, rsi
    mov rbp, rcx
    xor r14d, r14d
    call touched
    mov rax, rbx
    mov rbx, r15
    hlt

fills_again:                            // the same for the last 16, the last one invalidated
    push rbp
    push rdi
    push r8
    sub r8, 16
    mov rax, r8
    shl rax, 12
    add rdi, rax
    imul r8, r14
    add rbp, r8
    invlpg [rdi + 15 * 4096]
    mov r8d, 16
    call fills
    pop r8
    pop rdi
    pop rbp
    ret

fills:                                  // R15 = how many of R8 reads from RDI go to the tables
    push rbp
    push rdi
    push r8
    xor r15d, r15d
1:
    and qword ptr [rbp], ~ACCESSED
    mov rax, [rdi]
    test byte ptr [rbp], ACCESSED
    jz 2f
    inc r15d
2:
    add rbp, r14
    add rdi, 4096
    dec r8
    jnz 1b
    pop r8
    pop rdi
    pop rbp
    ret

touched:                                // R15 = in how many leaf entries R8 reads from RDI set A
    call read_all
    call count_accessed                 // none is left set,
    mov rax, cr3
    mov cr3, rax                        // nothing is left in the TLB,
    call count_accessed
    add r9, r15                         // so there is none here,
    call read_all
    jmp count_accessed                  // and these are new

read_all:
    push rdi
    push r8
1:
    mov rax, [rdi]
    add rdi, 4096
    dec r8
    jnz 1b
    pop r8
    pop rdi
    ret

count_accessed:                         // R15 = how many entries have A set; clears them
    push rbp
    push r8
    xor r15d, r15d
1:
    test byte ptr [rbp], ACCESSED
    jz 2f
    inc r15d
    and qword ptr [rbp], ~ACCESSED      // an entry that maps several of the words counts once
2:
    add rbp, r14
    dec r8
    jnz 1b
    pop r8
    pop rbp
    ret
