const greeting: string = "žluťoučký 雪 🎉"
console.log(greeting)
