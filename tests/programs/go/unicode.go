package main

import "fmt"

func main() { fmt.Println("žluťoučký 雪 🎉") }
