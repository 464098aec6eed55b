for (arg in commandArgs(TRUE)) cat(arg, "\n", sep = "")
