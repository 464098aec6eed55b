"""Java. The file is named after the public class; the class with a main method is run, whatever its package."""

from runnerd import Install, Language, hookimpl

JVM = ("-Xshare:auto", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:MaxRAM={memory_bytes}", "-XX:MaxRAMPercentage=60")
LIBRARIES = "/usr/local/share/java/*"
"""Jars for every program, where an administrator or our image has put some."""
COMPILER = ("javac", *(f"-J{option}" for option in (*JVM, "-XX:TieredStopAtLevel=1")))

# Linear in the length of the code: each repetition is possessive, or ends at the next line that declares a type.
DECLARATION = r"(?:(?:public|abstract|final|sealed|non-sealed|strictfp)\s++)*+(?:class|record|enum|interface)\s++"
BODY = r"(?=\s*+[<({]|\s++(?:extends|implements|permits)\b)"
PUBLIC = rf"(?m)^[ \t]*+public\s++{DECLARATION}(\w++){BODY}"
PACKAGE = r"\A(?:\s|//[^\n]*+\n|/\*(?:[^*]|\*(?!/))*+\*/)*+package\s++([\w.]++)\s*+;"
MAIN = rf"(?m)^{DECLARATION}(\w++){BODY}(?:[^\n]|\n(?!{DECLARATION}))*?\bvoid\s++main\s*+\("


@hookimpl
def register_languages() -> list[Language]:
    """The language, as data."""
    return [
        Language(
            code="java",
            name="Java",
            suffixes=(".java",),
            filename="Main.java",
            filename_pattern=PUBLIC,
            main_patterns=(PACKAGE, MAIN),
            compile=(*COMPILER, "-cp", f".:{LIBRARIES}", "-proc:none", "-encoding", "UTF-8", "-d", "{tmp}/classes", "{file}"),
            run=("java", *JVM, "-Dfile.encoding=UTF-8", "-cp", f"{{tmp}}/classes:.:{LIBRARIES}", "{main}"),
            paths=("/etc/java*",),
            image="java",
            wall_multiplier=2.0,
            memory_multiplier=1.5,
            version=("javac", "-version"),
            install=Install(debian=("default-jdk-headless",)),
            hello='public class Main {\n    public static void main(String[] args) {\n        System.out.println("hi");\n    }\n}\n',
        )
    ]
