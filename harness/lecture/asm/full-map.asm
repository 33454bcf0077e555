; full-map: any physical address, through a map of all of physical memory at 10 TiB
;
; Every frame of the machine's 16 MiB appears at 10 TiB + its physical address, in eight 2 MiB pages.
; CR3 plus the offset is the level 4 table; so is the table that its entry leads to; and so is a
; frame that has never been anything, at 10 MiB, which nothing else maps.
;
; [machine]
; ram = "16M"
; identity = "2M"
; map = [{ va = 0x0a00_0000_0000, pa = 0, size = "16M", page = "2M" }]
;
; [in]
; rdi = 0x0a00_0000_0000
;
; [out]
; rax = "PML4"                # CR3
; rbx = 0x2023                # the level 4 table's entry 0, read at offset + CR3
; rcx = 0x3023                # the level 3 table's entry 0, read at offset + the address in RBX
; rdx = 0x1122334455667788    # what was written at offset + 10 MiB, read back
;
; [out.memory]
; 0xa00000 = 0x1122334455667788

    mov rax, cr3
    mov rbx, [rdi + rax]
    mov rsi, rbx
    and rsi, -4096
    mov rcx, [rdi + rsi]
    mov rdx, 0x1122334455667788
    mov [rdi + 0xa00000], rdx
    mov rdx, [rdi + 0xa00000]
    hlt
