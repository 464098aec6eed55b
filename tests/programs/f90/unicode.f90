program greet
    print "(a)", "žluťoučký 雪 🎉"
end program greet
