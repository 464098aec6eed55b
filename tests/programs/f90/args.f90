program args
    implicit none
    integer :: i, length
    character(:), allocatable :: arg
    do i = 1, command_argument_count()
        call get_command_argument(i, length=length)
        allocate (character(length) :: arg)
        call get_command_argument(i, arg)
        print "(a)", arg
        deallocate (arg)
    end do
end program args
