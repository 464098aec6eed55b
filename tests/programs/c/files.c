#include <stdio.h>

int main(void) {
    FILE *in = fopen("in.txt", "r"), *out = fopen("out.txt", "w");
    if (!in || !out) return 1;
    int c;
    while ((c = getc(in)) != EOF) putc(c, out);
    return fclose(out);
}
