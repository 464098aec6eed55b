public class Forever {
    public static void main(String[] args) throws Exception {
        System.out.println("started");
        while (true) Thread.sleep(1000);
    }
}
