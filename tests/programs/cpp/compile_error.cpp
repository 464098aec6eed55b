int main() { int answer = "forty-two"; }
