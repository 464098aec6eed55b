#include <stdio.h>
#include <unistd.h>

int main(void) {
    puts("started");
    fflush(stdout);
    for (;;) sleep(1);
}
