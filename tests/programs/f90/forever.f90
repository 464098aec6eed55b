program forever
    print "(a)", "started"
    flush (6)
    do
        call sleep(1)
    end do
end program forever
