#include <math.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    (void)argv;
    exit((int)sqrt(8.0 + argc));
}
