use utf8; binmode STDOUT, ":encoding(UTF-8)"; use Encode; print decode("UTF-8", $_), "\n" for @ARGV;
