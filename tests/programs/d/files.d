import std.file;

void main()
{
    copy("in.txt", "out.txt");
}
