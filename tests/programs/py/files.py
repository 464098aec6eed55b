with open("in.txt") as source, open("out.txt", "w") as copy:
    copy.write(source.read())
