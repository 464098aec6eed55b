#include <iostream>
#include <span>

int main(int argc, char **argv) {
    for (auto arg : std::span(argv, argc).subspan(1)) std::cout << arg << "\n";
}
