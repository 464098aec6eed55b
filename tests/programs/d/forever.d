import core.thread;
import std.stdio;

void main()
{
    writeln("started");
    stdout.flush();
    while (true)
        Thread.sleep(1.seconds);
}
