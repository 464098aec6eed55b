writeLines(readLines("in.txt"), "out.txt")
