; tlb-stale: a changed entry that the CPU does not know of, until it is told
;
; PAGE is mapped to frame A and read, so the TLB holds its translation. Then the kernel writes frame
; B into the level 1 entry, and reads the page again after each of: nothing, `invlpg`; the entry
; back to A, nothing, a load of CR3. Then it does the same with a global page (bit 8 of the entry,
; CR4.PGE on), and a load of CR3; and, at last, `invlpg`, which reaches global pages too.
;
; Frame A holds 0xa, frame B 0xb. Architecture (SDM 3A 4.10, rules STALE, INVLPG, CR3_LOAD): what is
; read after `invlpg`, and after the CR3 load of a page that is not global, must be the new frame's.
; What is read after nothing may be either frame's, and so may the global page after the CR3 load.
; This engine: Unicorn 2.1.4 keeps the old translation when nothing is done, as CPUs do; but a load
; of CR3 makes it forget global pages too, as a CPU need not.
;
; In:  RDI = PAGE, mapped by a 4 KiB page; RSI = where its level 1 entry appears; RDX and RCX = the
;      frames A and B.
; Out: what was read: RBX at first; R8 after the entry changed (old or new), R9 after `invlpg`
;      (new); R10 after it changed back (old or new), R11 after the CR3 load (new); of the global
;      page R12 after the change (old or new), R13 after the CR3 load (old or new), R14 after
;      `invlpg` (new). Here new is B for R8 and R9, A for R10 and R11, B for R12 to R14.
;
; [machine]
; ram = "16M"
; identity = "1280K"
; map = [{ va = 0x400000, pa = 0x200000, size = "8K" }]
;
; [in]
; rdi = 0x400000
; rsi = 0x5000                # the level 1 table of 4 to 6 MiB
; rdx = 0x200000
; rcx = 0x201000
;
; [out]
; rbx = 0xa
; r8 = 0xa                    # this engine: the old frame
; r9 = 0xb                    # architecture
; r10 = 0xb                   # this engine: the old frame
; r11 = 0xa                   # architecture
; r12 = 0xa                   # this engine: the old frame
; r13 = 0xb                   # this engine: the new frame; a CPU may show the old one
; r14 = 0xb                   # architecture
; rax = 0xa0                  # CR4: PAE, PGE
;
; [out.memory]
; 0x5000 = 0x201123           # the entry: frame B, GLOBAL, A

.include "include/flags.inc"

    or rdx, PRESENT | WRITABLE
    or rcx, PRESENT | WRITABLE
    mov r15, cr3

    mov [rsi], rcx
    invlpg [rdi]
    mov qword ptr [rdi], 0xb
    mov [rsi], rdx
    invlpg [rdi]
    mov qword ptr [rdi], 0xa
    mov rbx, [rdi]

    mov [rsi], rcx
    mov r8, [rdi]
    invlpg [rdi]
    mov r9, [rdi]

    mov [rsi], rdx
    mov r10, [rdi]
    mov cr3, r15
    mov r11, [rdi]

    mov rax, cr4
    or eax, 1 << 7                      // PGE
    mov cr4, rax
    or rdx, GLOBAL
    or rcx, GLOBAL
    mov [rsi], rdx
    invlpg [rdi]
    mov rax, [rdi]

    mov [rsi], rcx
    mov r12, [rdi]
    mov cr3, r15
    mov r13, [rdi]
    invlpg [rdi]
    mov r14, [rdi]
    mov rax, cr4
    hlt
