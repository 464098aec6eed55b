program wrong
    implicit none
    integer :: answer
    answer = "forty-two"
end program wrong
