#include <filesystem>

int main() { std::filesystem::copy_file("in.txt", "out.txt"); }
