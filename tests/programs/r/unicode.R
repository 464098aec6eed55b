cat("žluťoučký 雪 🎉\n")
