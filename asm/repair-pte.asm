; repair-pte: a #PF handler that repairs a PTE and resumes a ring-3 instruction
;
; Ring 3 reads virtual page 8 MiB, whose PTE is not present. The CPU delivers #PF through the IDT
; to ring 0 on the stack that the TSS names, with CR2 and the error code (U: the access came from
; CPL 3). The handler sets PRESENT in the PTE, invalidates the page, and returns with iretq: the
; same instruction runs again and completes. A breakpoint then tells the kernel what ring 3 read.
;
; [machine]
; ram = "4M"
; map = [
;     { va = 0x800000, pa = 0x200000, size = "4K", flags = "WU" },
;     { va = 0x801000, pa = 0x201000, size = "4K", flags = "WU" },
; ]
;
; [out]
; rbx = 0x0123456789abcdef    # what ring 3 read at last
; r12 = 0x800010              # CR2
; r13 = 0x4                   # the error code: U, not present
; r14 = 3                     # the CPL that was interrupted
; events = ["#PF", "#BP"]
; exit = 1

DATA = 0x800000                     // not there at first; physical 2 MiB
CODE = 0x801000                     // ring 3's code, physical 2 MiB + 4 KiB

.include "include/selectors.inc"

    call install_tables
    lea rax, [rip + page_fault]
    mov ecx, 14
    call set_gate
    lea rax, [rip + breakpoint]
    mov ecx, 3
    call set_gate

    // Physical memory is identity-mapped here: put the mark and ring 3's code in their frames.
    mov rax, 0x0123456789abcdef
    mov rdi, 0x200010
    mov [rdi], rax
    lea rsi, [rip + ring3]
    mov rdi, 0x201000
    mov ecx, ring3_end - ring3
    rep movsb

    // RSI = the PTE of DATA: index 0 of the PML4 and the PDPT, 4 of the PD, 0 of the PT.
    mov rsi, cr3
    mov rsi, [rsi]
    and rsi, -4096
    mov rsi, [rsi]
    and rsi, -4096
    mov rsi, [rsi + 8 * 4]
    and rsi, -4096
    and qword ptr [rsi], -2         // not present
    mov rax, DATA
    invlpg [rax]

    push USER_DATA
    push CODE + 0x800
    push 0x2
    push USER_CODE
    push CODE
    iretq

ring3:                              // runs at CODE, CPL 3
    mov rdi, DATA + 0x10
    mov rbx, [rdi]                  // faults once
    int3
ring3_end:

page_fault:
    pop r13                         // the error code
    mov r12, cr2
    mov r14, [rsp + 8]              // the interrupted CS
    and r14, 3
    or qword ptr [rsi], 1
    invlpg [r12]
    iretq

breakpoint:
    xor eax, eax
    out 0xf4, al
    hlt

.include "include/exceptions.inc"
