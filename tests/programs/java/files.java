package org.example.files;

import java.nio.file.*;

public class CopyFile {
    public static void main(String[] args) throws Exception {
        Files.copy(Path.of("in.txt"), Path.of("out.txt"));
    }
}
