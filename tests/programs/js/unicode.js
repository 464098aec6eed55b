console.log("žluťoučký 雪 🎉")
