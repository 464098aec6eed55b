program fail
    error stop "boom"
end program fail
