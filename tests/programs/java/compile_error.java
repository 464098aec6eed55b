public class Wrong {
    public static void main(String[] args) throws Exception {
        int answer = "forty-two";
    }
}
