; recursive-pml4: the PML4's own entry, read through the recursive slot
;
; Slot 511 of the PML4 points to the PML4 itself. The address with index 511 at all four levels
; (octal 0o177777_777_777_777_777_0000) therefore shows the PML4 as if it were an ordinary page: the
; CPU follows the recursive entry four times and finds the same table again each time. Entry 511
; of what it finds is the entry that made it possible.
;
; [machine]
; ram = "4M"
; recursive = 511
;
; [out]
; rax = 0x1063          # PML4's frame, PRESENT | WRITABLE, and the A and D that the CPU set
; rbx = 0x2023          # entry 0: the table that maps this code
; rcx = "PML4"

    mov rsi, 0xfffffffffffff000     ; the PML4, shown as a page
    mov rbx, [rsi]
    mov rax, [rsi + 8 * 511]        ; this read itself sets A in the entry that it reads
    mov qword ptr [rsi + 8 * 100], 0 ; a write through it, to any entry, sets D in 511
    mov rax, [rsi + 8 * 511]
    mov rcx, cr3
    hlt
