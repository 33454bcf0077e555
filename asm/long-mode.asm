; long-mode: from 32-bit protected mode to long mode, by the kernel's own hand
;
; The CPU starts with paging off. The code builds a PML4, a PDPT and a PD with one 2 MiB identity
; page, and a PT that maps virtual page 4 MiB to another frame; sets CR4.PAE, CR3, EFER.LME and
; CR0.PG; and enters 64-bit code by a far return. Only then does it dereference a virtual address
; whose physical address is another: a CPU without translation would not find the mark.
;
; [machine]
; mode = "protected"
; ram = "8M"
;
; [out]
; r8 = 0x1122334455667788
; rbx = 0x1122334455667788
; serial = "long mode"
; exit = 33

PDPT = 0x2000
PD   = 0x3000
PT   = 0x4000
MARK = 0x5000

    mov dword ptr [PML4], PDPT + 3
    mov dword ptr [PDPT], PD + 3
    mov dword ptr [PD], 0x83            ; 0 to 2 MiB, itself
    mov dword ptr [PD + 16], PT + 3     ; 4 to 6 MiB
    mov dword ptr [PT], MARK + 3        ; 4 MiB -> 0x5000
    mov dword ptr [MARK], 0x55667788
    mov dword ptr [MARK + 4], 0x11223344

    lgdt [gdt_pointer]
    mov eax, cr4
    or eax, 1 << 5                      ; PAE
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xc0000080                 ; EFER
    rdmsr
    or eax, 1 << 8                      ; LME
    wrmsr
    mov eax, cr0
    or eax, 1 << 31                     ; PG
    mov cr0, eax
    push 8
    push long_mode
    retf

gdt:
    .quad 0
    .quad 0x00209a0000000000            ; 64-bit code
    .quad 0x0000920000000000            ; data
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

.code64
long_mode:
    mov eax, 16
    mov ss, eax
    mov rsi, 0x400000
    mov r8, [rsi]                       ; through the PT
    mov rdi, MARK
    mov rbx, [rdi]                      ; through the identity page
    mov rsi, message
    mov ecx, message_end - message
    mov dx, 0x3f8
next:
    mov al, [rsi]
    out dx, al
    inc rsi
    dec ecx
    jnz next
    mov eax, 16
    out 0xf4, al
    hlt
message:
    .ascii "long mode"
message_end:
