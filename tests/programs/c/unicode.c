#include <stdio.h>

int main(void) { puts("žluťoučký 雪 🎉"); }
