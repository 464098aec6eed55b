package main

func main() { var answer int = "forty-two" }
