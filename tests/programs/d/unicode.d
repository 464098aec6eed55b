import std.stdio;

void main()
{
    writeln("žluťoučký 雪 🎉");
}
