program copy
    implicit none
    character(1000) :: line
    integer :: status, length
    do
        read (*, "(a)", advance="no", size=length, iostat=status) line
        if (is_iostat_end(status)) exit
        print "(a)", line(:length)
    end do
end program copy
