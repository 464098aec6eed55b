program copy
    implicit none
    character(1000) :: line
    integer :: in, out, status
    open (newunit=in, file="in.txt", status="old")
    open (newunit=out, file="out.txt", status="new")
    do
        read (in, "(a)", iostat=status) line
        if (status /= 0) exit
        write (out, "(a)") trim(line)
    end do
    close (out)
end program copy
