! What this image offers, used once: prints `ok`.
program example
    use, intrinsic :: iso_c_binding
    implicit none
    include 'fftw3.f03'
    double precision :: matrix(2, 2), right(2)
    integer :: pivots(2), info
    type(c_ptr) :: plan
    complex(c_double_complex) :: data(8)
    external :: dgesv

    matrix = reshape([2d0, 1d0, 1d0, 3d0], [2, 2])
    right = [5d0, 10d0]
    call dgesv(2, 1, matrix, 2, pivots, right, 2, info)
    if (info /= 0 .or. abs(right(2) - 3d0) > 1d-9) error stop 'dgesv'
    plan = fftw_plan_dft_1d(8, data, data, FFTW_FORWARD, FFTW_ESTIMATE)
    data = 1
    call fftw_execute_dft(plan, data, data)
    if (abs(data(1) - 8) > 1d-9) error stop 'fftw'
    print '(a)', 'ok'
end program example
