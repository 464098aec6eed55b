public class Unicode {
    public static void main(String[] args) throws Exception {
        System.out.println("žluťoučký 雪 🎉");
    }
}
