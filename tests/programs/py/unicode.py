print("žluťoučký 雪 🎉")
