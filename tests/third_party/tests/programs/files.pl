open my $in, "<", "in.txt" or die; open my $out, ">", "out.txt" or die; print $out $_ while <$in>;
