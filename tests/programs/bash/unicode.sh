echo "žluťoučký 雪 🎉"
