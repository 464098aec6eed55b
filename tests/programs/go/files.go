package main

import "os"

func main() {
	text, err := os.ReadFile("in.txt")
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile("out.txt", text, 0o644); err != nil {
		panic(err)
	}
}
