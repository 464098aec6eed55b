class Helper {
    final int code = 3;
}

public class Exit {
    public static void main(String[] args) throws Exception {
        System.exit(new Helper().code);
    }
}
