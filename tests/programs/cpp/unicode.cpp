#include <iostream>

int main() { std::cout << "žluťoučký 雪 🎉\n"; }
