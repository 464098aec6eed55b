// What this image offers, used once: prints `ok`.
import mir.math.common : approxEqual, sqrt;
import std.algorithm, std.bigint, std.json, std.range, std.stdio;

void main()
{
    assert(sqrt(2.0).approxEqual(1.41421356));
    assert(iota(1, 5).map!(x => x * x).sum == 30);
    assert(parseJSON(`{"a": [1, 2]}`)["a"][1].integer == 2);
    assert((BigInt(2) ^^ 100).toDecimalString == "1267650600228229401496703205376");
    writeln("ok");
}
